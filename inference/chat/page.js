// Turns presses and forms of one region of the page into requests to `ChatSession.act`. Gradio runs this for every region
// with `element`, `trigger` and `watch`; it redraws a region in place, so that focus stays where it was.

const ask = (request) => trigger('act', request);
const fields = (form) => ({ ...Object.fromEntries(new FormData(form)), ...form.dataset });

element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (button) ask({ ...button.dataset });
});

element.addEventListener('submit', (event) => {
  event.preventDefault();
  ask(fields(event.target));
  if (event.target.dataset.act === 'say') event.target.reset();
});

element.addEventListener('change', (event) => {
  const form = event.target.closest('form[data-auto]');
  if (form) ask(fields(form));
});

let typing;
element.addEventListener('input', (event) => {
  if (!event.target.dataset.live) return;
  clearTimeout(typing);
  typing = setTimeout(() => ask({ act: event.target.dataset.live, text: event.target.value }), 150);
});

let focused = null;
element.addEventListener('focusin', (event) => { focused = event.target; });

const settle = () => {
  for (const control of element.querySelectorAll('[data-value]')) {
    if (control !== document.activeElement) control.value = control.dataset.value;
  }
  for (const log of element.querySelectorAll('.log')) log.scrollTop = log.scrollHeight;
  if (focused && !focused.isConnected) {
    // What was pressed is gone: the keyboard goes on with the next thing that can be pressed here.
    focused = null;
    (element.querySelector('button, input') ?? document.getElementById('say')).focus();
  }
};
watch('value', settle);
settle();
