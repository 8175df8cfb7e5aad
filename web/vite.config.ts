// Two shapes of the page. `vite build` makes index.html with app.js and app.css beside it, for the server; then `vite build
// --mode file` makes export.html of what a file needs, with everything inside. build.json says from which sources.

import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig, type Plugin } from 'vite';

const OUT = '../src/kanary/app/static';
const SOURCES = ['index.html', 'package.json', 'package-lock.json', 'tsconfig.json', 'vite.config.ts'];

const sha256 = (data: string | Buffer, form: 'hex' | 'base64' = 'hex') => createHash('sha256').update(data).digest(form);

/** SHA-256 over the sorted lines "sha256 of a file, two spaces, its path" of all sources. */
function fingerprint(): string {
  const inside = readdirSync('src', { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = [...SOURCES, ...inside.map((entry) => join(entry.parentPath, entry.name).replaceAll('\\', '/'))];
  return sha256(paths.sort().map((path) => `${sha256(readFileSync(path))}  ${path}\n`).join(''));
}

/** The page as one file, which may load nothing: its policy allows its own script, by hash, and its own styles. */
function inlined(html: string, script: string, styles: string): string {
  const code = script.replaceAll('</script', '<\\/script').replaceAll('<!--', '<\\!--');
  const policy = [
    "default-src 'none'",
    `script-src 'sha256-${sha256(code, 'base64')}'`,
    "style-src 'unsafe-inline'",
    'img-src data: blob:',
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
  const kept = html.replace(/\s*<script [^>]*src=[^>]*><\/script>/, '').replace(/\s*<link rel="stylesheet"[^>]*>/, '');
  const head = `<meta http-equiv="Content-Security-Policy" content="${policy}" />\n    <style>${styles}</style>\n  </head>`;
  const body = `<script type="application/json" id="kanary-data"></script>\n    <script type="module">${code}</script>\n  </body>`;
  return kept.replace('</head>', () => head).replace('</body>', () => body);
}

/** Begins with src/file.ts, and puts what is built of it into one file. */
function oneFile(): Plugin {
  return {
    name: 'kanary-file',
    apply: 'build',
    enforce: 'post',
    transformIndexHtml: { order: 'pre', handler: (html) => html.replace('/src/main.ts', '/src/file.ts') },
    generateBundle(_, bundle) {
      const [html, script, styles] = ['index.html', 'app.js', 'app.css'].map((name) => {
        const part = bundle[name]!;
        delete bundle[name];
        return part.type === 'chunk' ? part.code : String(part.source);
      });
      this.emitFile({ type: 'asset', fileName: 'export.html', source: inlined(html!, script!, styles!) });
    },
    closeBundle() {
      const names = ['app.css', 'app.js', 'export.html', 'index.html'];
      const files = Object.fromEntries(names.map((name) => [name, sha256(readFileSync(join(OUT, name)))]));
      writeFileSync(join(OUT, 'build.json'), `${JSON.stringify({ sources: fingerprint(), files }, null, 2)}\n`);
    },
  };
}

export default defineConfig(({ mode }) => ({
  base: './',
  plugins: [svelte(), ...(mode === 'file' ? [oneFile()] : [])],
  build: {
    outDir: OUT,
    emptyOutDir: mode !== 'file',
    target: 'es2022',
    modulePreload: false,
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 300,
    rollupOptions: {
      output: { entryFileNames: 'app.js', assetFileNames: 'app[extname]', codeSplitting: false },
    },
  },
  server: { proxy: { '/api': 'http://127.0.0.1:7350' } },
}));
