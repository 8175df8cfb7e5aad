import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';
import { embedded } from './data/file';
import { keepToken } from './data/server';

const data = embedded();
if (!data) keepToken();
mount(App, { target: document.getElementById('app') as HTMLElement, props: { data } });
