import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';
import { keepToken } from './data/server';

keepToken();
const place = document.getElementById('app') as HTMLElement;
place.replaceChildren(); // what stood there until the script was ready
mount(App, { target: place });
