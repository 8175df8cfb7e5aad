import { mount } from 'svelte';
import './app.css';
import File from './File.svelte';
import { embedded, saeOf } from './data/file';
import { address, to } from './data/route.svelte';

const data = await embedded();
const only = data.features.length === 1 ? data.features[0] : undefined;
if (only && address.current.view === 'runs') address.replace(to.feature(saeOf(only), only.latent)); // a list of one says less
const place = document.getElementById('app') as HTMLElement;
place.replaceChildren();
mount(File, { target: place, props: { data } });
