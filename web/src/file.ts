import { mount } from 'svelte';
import './app.css';
import File from './File.svelte';
import { embedded } from './data/file';

const data = await embedded();
const place = document.getElementById('app') as HTMLElement;
place.replaceChildren();
mount(File, { target: place, props: { data } });
