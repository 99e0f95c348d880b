// The chat page. What is drawn comes from `/api/act` as JSON; every word of it is set as text, never as markup.
// A press or a form becomes a request to `ChatSession.act`; one is under way at a time, the others wait.

const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
let shop = { runs: [], fields: [], speakers: {} };
let conversation = sessionStorage.getItem('conversation') ?? '';
let page = null;

/** An element: `make('p', {class: 'note'}, 'words', child)`. Texts become text nodes. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ''));
  return element;
}

function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.flat());
  return element;
}

/** A button that asks for `request.act`; `about` says which, for those who cannot see where it stands. */
function button(request, label, about, attributes = {}) {
  const data = Object.fromEntries(Object.entries(request).map(([key, value]) => [`data-${key}`, value]));
  return make('button', { type: 'button', ...data, 'aria-label': about ?? null, ...attributes }, label);
}

// ---- Asking -------------------------------------------------------------------------------------------------------

const post = (path, body) => fetch(path, {
  method: 'POST', body: JSON.stringify(body),
  headers: { 'Content-Type': 'application/json', 'X-Conversation': conversation },
});

let queue = Promise.resolve();
const act = (request) => (queue = queue.then(() => take(request)).catch((error) => trouble(String(error.message ?? error))));

async function take(request) {
  busy(true);
  if (request.act === 'say') begin(request.text);
  try {
    const answer = await post('api/act', request);
    if (!answer.ok) throw new Error((await answer.json()).detail);
    for await (const message of lines(answer.body)) {
      if ('conversation' in message) remember(message.conversation);
      else if ('writing' in message) write(message.writing);
      else if ('page' in message) show(message.page, request.act);
      else throw new Error(message.failed);
    }
  } catch (error) {
    throw error instanceof TypeError ? new Error('The server does not answer. Is it still running?') : error;
  } finally {
    busy(false);
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (waiting + value).split('\n');
    waiting = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

function remember(name) {
  const ended = conversation && conversation !== name;
  conversation = name;
  sessionStorage.setItem('conversation', name);
  if (ended) say('The conversation before had ended, so this is a new one.');
}

function busy(is) {
  document.body.classList.toggle('busy', is);
  $('cards').setAttribute('aria-busy', is);
}

function say(words) { $('told').textContent = words; }

function trouble(words) {
  for (const line of $('log').querySelectorAll('.passing')) line.remove();
  $('log').append(turn({ who: 'problem', text: words, note: '', table: [] }));
  say(words);
  toEnd();
}

// ---- The conversation ---------------------------------------------------------------------------------------------

const WHO = { you: 'You: ', did: 'You: ', answer: 'genrec: ', problem: 'This did not work: ' };
let drawn = [];  // the turns on the page, as JSON

function turn(line) {
  const said = make('p', { class: 'said' }, make('span', { class: 'unseen' }, WHO[line.who]), line.text);
  if (line.by) {
    const words = shop.speakers[line.by];
    said.append(' ', make('span', { class: 'mark', title: words, 'data-speaker': line.by },
      make('span', { 'aria-hidden': 'true' }, '✦'), make('span', { class: 'unseen' }, `(${words})`)));
  }
  return make('li', { class: line.who }, said, line.table.length ? compared(line.table) : null,
    line.note ? make('p', { class: 'note' }, line.note) : null);
}

function compared([heading, ...rows]) {
  const head = make('tr', {}, heading.map((cell, place) => make(place ? 'th' : 'td', place ? { scope: 'col' } : {}, cell)));
  const body = rows.map(([name, ...cells]) => make('tr', {},
    make('th', { scope: 'row' }, name), cells.map((cell) => make('td', {}, cell))));
  return make('div', { class: 'compared', tabindex: 0, role: 'region', 'aria-label': 'Comparison' },
    make('table', {}, make('thead', {}, head), make('tbody', {}, body)));
}

/** What was typed stands there at once, and dots where the answer will be. */
function begin(text) {
  const dots = make('span', { class: 'dots', 'aria-hidden': 'true' }, make('i'), make('i'), make('i'));
  const mine = turn({ who: 'you', text, note: '', table: [] });
  const theirs = make('li', { class: 'answer writing' }, make('p', { class: 'said' }, dots));
  mine.classList.add('passing');
  theirs.classList.add('passing');
  $('log').append(mine, theirs);
  toEnd(true);
}

function write(words) {
  const bubble = $('log').querySelector('.writing .said');
  if (bubble && words) bubble.textContent = words;
  toEnd();
}

function showTurns(turns) {
  for (const line of $('log').querySelectorAll('.passing')) line.remove();
  const texts = turns.map((line) => JSON.stringify(line));
  const grown = drawn.every((text, place) => text === texts[place]) && $('log').childElementCount === drawn.length;
  if (grown) $('log').append(...turns.slice(drawn.length).map(turn));
  else $('log').replaceChildren(...turns.map(turn));
  drawn = texts;
}

const wide = matchMedia('(min-width: 900px)');

/** To the end of the conversation; on a phone, whose page is one column, to what was said last. */
function toEnd(said = false) {
  if (wide.matches) $('log').scrollTop = $('log').scrollHeight;
  else if (said) [...$('log').querySelectorAll('.you')].pop()?.scrollIntoView({ block: 'start' });
}

// ---- The page -----------------------------------------------------------------------------------------------------

function show(next, asked) {
  page = next;
  showTurns(page.turns);
  showRuns();
  showKnown();
  redraw($('cards'), [make('div', { class: 'columns', 'data-columns': page.columns.length }, page.columns.map(column))]);
  redraw($('suggestions'), page.suggestions.map((text) => button({ act: 'say', text }, text)));
  if (asked === 'reset') window.scrollTo(0, 0);
  toEnd(asked === 'say');
  const last = page.turns.at(-1);
  if (last && asked !== 'open') say(`${last.text} ${counted(page.columns[0].cards.length)}`);
}

const counted = (count) => (count === 1 ? '1 item is shown.' : `${count || 'No'} items are shown.`);

/** New children for a region; the focus stays at its place: on the same button, or on the one that has come there. */
function redraw(region, children) {
  const active = region.contains(document.activeElement) ? document.activeElement : null;
  const alike = () => [...region.querySelectorAll(`[data-act="${active.dataset.act ?? ''}"]`)];
  const same = (other) => other.dataset.item === active.dataset.item && other.dataset.run === active.dataset.run
    && other.dataset.name === active.dataset.name && other.dataset.value === active.dataset.value;
  const place = active ? alike().indexOf(active) : 0;
  region.replaceChildren(...children);
  if (!active) return;
  const next = alike();
  (next.find(same) ?? next[Math.min(place, next.length - 1)] ?? region.querySelector('button, input') ?? $('say')).focus();
}

function showRuns() {
  if (shop.runs.length < 2) {
    $('runs').replaceChildren(make('p', { class: 'run-name' }, shop.runs[0] ?? ''));
    return;
  }
  const views = [...shop.runs.map((run) => [run, run]), ['', 'Side by side']];  // '' stands for all runs
  redraw($('runs'), views.map(([run, label]) => button({ act: 'view', run }, label, null, {
    'aria-pressed': String(run === (page.view.length > 1 ? '' : page.view[0])),
  })));
}

function column({ run, cards, empty }) {
  const several = page.columns.length > 1;
  const place = page.columns.findIndex((other) => other.run === run);
  const relaxed = place === 0 && page.known.relaxed.length
    ? make('div', { class: 'relaxed' }, make('p', {}, 'Nothing meets all of it, so this was left out:'),
      chips(page.known.relaxed, '↺', 'Keep')) : null;
  const body = cards.length
    ? make('ol', { class: 'cards', 'data-count': cards.length }, cards.map((item, rank) => card(item, `card-${place}-${rank}`, rank + 1)))
    : make('div', { class: 'empty-table' }, art('empty', ''),
      make('p', {}, 'Nothing here meets all of that.'),
      make('div', { class: 'ways' }, empty.map(({ label, ...request }) => button(request, label))));
  return make('section', { class: 'run', 'aria-label': `Items of ${run}` },
    make('h2', several ? {} : { class: 'unseen' }, several ? run : 'Items for you'), relaxed, body);
}

function card(item, id, rank) {
  const named = { item: item.id, run: item.run };
  const code = make('p', { class: 'codes developer' }, make('code', {}, item.codes),
    item.score === null ? null : ` score ${item.score}`);
  return make('li', {}, make('article', { class: 'card', 'aria-labelledby': id, 'data-item': item.id },
    make('div', { class: 'picture' }, picture(item)), make('span', { class: 'rank' }, String(rank)),
    make('div', { class: 'body' },
      make('div', { class: 'title' },
        make('h3', { id }, button({ act: 'open', ...named }, item.title)),
        item.price ? make('p', { class: 'price' }, make('span', { class: 'unseen' }, 'Price '), item.price) : null),
      item.line ? make('p', { class: 'facts' }, item.line) : null,
      item.reason ? make('p', { class: 'reason' }, item.reason) : null,
      (item.elsewhere ?? []).map((words) => make('p', { class: 'elsewhere' }, words)),
      code,
      make('div', { class: 'actions' },
        button({ act: 'like', ...named }, 'Like', `Like: ${item.title}`),
        button({ act: 'dislike', ...named }, 'Not this', `Not this: ${item.title}`),
        button({ act: 'why', ...named }, 'Why?', `Why: ${item.title}`)))));
}

// ---- Pictures -----------------------------------------------------------------------------------------------------

function picture(item) {
  if (!item.image) return art(item.kind || item.title, item.id);
  const image = make('img', { src: item.image, alt: '', loading: 'lazy', referrerpolicy: 'no-referrer' });
  image.addEventListener('error', () => image.replaceWith(art(item.kind || item.title, item.id)));
  return image;
}

function hash(text) {
  let value = 2166136261;
  for (const letter of text) value = Math.imul(value ^ letter.codePointAt(0), 16777619);
  value = Math.imul(value ^ (value >>> 15), 2246822507);
  return (value ^ (value >>> 13)) >>> 0;
}

// Shapes by what an item is, moved a little by which one it is: `r` gives numbers from 0 to 1.
const circle = (x, y, radius, tone) => draw('circle', { cx: x, cy: y, r: radius, class: tone });
const MOTIFS = [
  (r) => [120, 92, 64, 36].map((radius, ring) => circle(70 + 180 * r(1), 150, radius, ring % 2 ? 'tone-b' : 'tone-c')),
  (r) => [circle(230 - 140 * r(1), 50, 26, 'tone-c'), draw('ellipse', { cx: 70 + 60 * r(2), cy: 190, rx: 190, ry: 95, class: 'tone-b' }),
    draw('ellipse', { cx: 290 - 60 * r(3), cy: 205, rx: 170, ry: 85, class: 'tone-c' })],
  (r) => [...Array(18).keys()].map((n) => circle(40 + 48 * (n % 6), 34 + 46 * Math.floor(n / 6), 8 + 11 * r(n), n % 3 ? 'tone-b' : 'tone-c')),
  (r) => [0, 1, 2, 3].map((n) => draw('ellipse', { cx: 0, cy: -46, rx: 22, ry: 46, class: n % 2 ? 'tone-b' : 'tone-c',
    transform: `translate(${120 + 80 * r(1)} 118) rotate(${-66 + 44 * n + 20 * r(2)})` })),
  (r) => [0, 1, 2, 3, 4].map((n) => draw('rect', { x: 30 + 56 * n, y: 30 + 70 * r(n), width: 34, height: 190, rx: 17, class: n % 2 ? 'tone-b' : 'tone-c' })),
  (r) => [draw('rect', { x: 60 + 60 * r(1), y: 44, width: 96, height: 96, rx: 20, class: 'tone-b' }), circle(190 + 50 * r(2), 96, 50, 'tone-c')],
];

/** A calm drawing in the place of a picture. */
function art(kind, id) {
  const seed = hash(kind);
  const random = (n) => (hash(`${id}/${n}`) % 1000) / 1000;
  return draw('svg', { class: `art hue-${seed % 8}`, viewBox: '0 0 320 160', preserveAspectRatio: 'xMidYMid slice', 'aria-hidden': 'true' },
    draw('rect', { width: 320, height: 160, class: 'tone-a' }), MOTIFS[(seed >>> 5) % MOTIFS.length](random));
}

// ---- What is known ------------------------------------------------------------------------------------------------

function chips(listed, glyph, verb) {
  return make('ul', { class: 'chips' }, listed.map(({ text, about, ...request }) => make('li', {},
    make('span', {}, text), button(request, verb ? `${glyph} ${verb}` : glyph, about, { class: 'bare' }))));
}

const fill = (id, listed, glyph, none) =>
  redraw($(id).querySelector('.listed'), [listed.length ? chips(listed, glyph) : make('p', { class: 'empty' }, none)]);

const BAR = 6;  // items of a long history that the bar shows

function showKnown() {
  const { having, wish, where, refused } = page.known;
  fill('having', having, '×', 'Nothing yet. Like an item, or add one by its title.');
  fill('wish', wish, '×', 'Whatever fits what you have.');
  fill('refused', refused, '↺', 'Nothing refused.');
  const controlled = new Set(shop.fields.map((field) => field.name));
  const others = where.filter((chip) => !controlled.has(chip.name));
  redraw($('filters').querySelector('.others'), others.length ? [chips(others, '×')] : []);
  for (const control of $('filters').querySelectorAll('[data-field]')) {
    if (control === document.activeElement && control.tagName === 'INPUT' && control.value !== control.dataset.sent) continue;
    const value = page.where[control.dataset.field]?.[control.dataset.end];
    const text = value === null || value === undefined ? '' : String(value);
    if (control.tagName === 'SELECT' && ![...control.options].some((option) => option.value === text)) {
      control.append(make('option', { value: text }, text));  // several values, as words can ask for
    }
    control.value = control.dataset.sent = text;
  }
  $('state').querySelector('pre').textContent = page.state;
  const count = having.length + wish.length + where.length + refused.length;
  $('known-count').textContent = count ? String(count) : '';
  const kinds = { heart: having.slice(-BAR), wish, where, no: refused.slice(-BAR) };
  const bar = Object.entries(kinds).flatMap(([kind, listed]) => listed.map(({ text, about, ...request }) =>
    make('li', { class: kind }, make('span', {}, text),
      button(request, kind === 'no' ? '↺' : '×', about, { class: 'bare' }))));
  const hidden = count - bar.length;
  if (hidden) bar.push(make('li', { class: 'more' }, button({ act: 'known' }, `${hidden} more`)));
  redraw($('bar'), bar.length ? [make('ul', { class: 'chips' }, bar)] : []);
}

function buildFilters() {
  const form = $('filters').querySelector('form');
  if (!shop.fields.length) form.append(make('p', { class: 'empty' }, 'This catalogue has nothing to filter by.'));
  for (const { name, least, most, counts } of shop.fields) {
    const label = name.replaceAll('_', ' ');
    if (counts) {
      form.append(make('label', { class: 'choice' }, make('span', {}, label),
        make('select', { name: `is:${name}`, 'data-field': name, 'data-end': 'is' }, make('option', { value: '' }, 'any'),
          counts.map(([value, count]) => make('option', { value }, `${value} (${count.toLocaleString('en')})`)))));
      continue;
    }
    const ends = [['low', 'from', least], ['high', 'to', most]].map(([end, word, limit]) => make('label', {},
      make('span', {}, `${label} ${word}`), make('input', { type: 'number', step: 'any', inputmode: 'decimal',
        name: `${end}:${name}`, placeholder: limit, 'data-field': name, 'data-end': end })));
    form.append(make('div', { class: 'range', role: 'group', 'aria-label': label }, ends));
  }
  if (shop.fields.length) form.append(make('button', { type: 'submit', class: 'unseen', tabindex: -1 }, 'Apply'));
}

const filter = (form) => act({ act: 'filter', ...Object.fromEntries(new FormData(form)) });

let typing;
function find(text) {
  clearTimeout(typing);
  typing = setTimeout(async () => {
    const answer = text.trim() ? await post('api/titles', { text }) : null;
    const found = answer?.ok ? await answer.json() : [];
    if ($('find').value !== text) return;
    $('found').replaceChildren(...found.map(({ id, title }) => make('li', {}, button({ act: 'add', item: id }, `+ ${title}`))));
  }, 150);
}

// ---- All of a card ------------------------------------------------------------------------------------------------

async function open(item, run, level = '') {
  const answer = await post('api/details', { item, run, level });
  if (!answer.ok) {
    trouble((await answer.json()).detail);
    return;
  }
  const all = await answer.json();
  const spelled = all.codes.match(/<[^<>]+>/g) ?? [];
  const prefix = spelled.slice(0, all.level).join('');
  const sid = make('div', { class: 'sid', role: 'group', 'aria-label': 'Semantic ID' }, spelled.map((code, place) =>
    place + 1 === spelled.length ? make('code', {}, code)
      : button({ act: 'codes', item, run, level: String(place + 1) }, code, `neighbours under ${spelled.slice(0, place + 1).join('')}`,
        { 'aria-pressed': String(place < all.level) })));
  const others = all.neighbours.length
    ? [make('p', {}, 'Others under ', make('code', {}, prefix)), make('ul', { class: 'neighbours', tabindex: 0, 'aria-label': 'Neighbours' },
      all.neighbours.map((other) => make('li', {}, make('span', {}, other.title), ' ', make('code', {}, other.codes))))]
    : [make('p', {}, 'No other item under ', make('code', {}, prefix))];
  const facts = all.facts.map(([name, value]) => make('div', { class: value.length > 60 ? 'long' : null }, make('dt', {}, name), make('dd', {}, value)));
  const dialog = $('details');
  redraw(dialog, [
    make('div', { class: 'drawer-head' }, make('h2', { id: 'details-title' }, all.title),
      make('button', { type: 'button', class: 'close', 'aria-label': 'Close' }, '×')),
    make('div', { class: 'picture' }, picture(all)),
    all.price ? make('p', { class: 'price' }, make('span', { class: 'unseen' }, 'Price '), all.price) : null,
    make('dl', { class: 'facts' }, facts),
    make('section', { class: 'panel' }, make('h3', {}, 'Why it is here'), make('p', { class: 'told' }, all.told)),
    make('section', { class: 'panel developer' }, make('h3', {}, 'Semantic ID'), sid, trie(all), others,
      all.score === null ? null : make('p', { class: 'note' }, `score ${all.score}`)),
    make('div', { class: 'actions' }, button({ act: 'like', item, run }, 'Like', `Like: ${all.title}`),
      button({ act: 'dislike', item, run }, 'Not this', `Not this: ${all.title}`)),
  ].filter(Boolean));
  if (!dialog.open) dialog.showModal();
}

/** The item's way through the trie: at each level the codes that may follow, with how many items are below them. */
function trie({ levels, codes }) {
  const step = 118, row = 24, top = 16;
  const rows = levels.map((level) => level.codes.length + (level.before ? 1 : 0) + (level.after ? 1 : 0));
  const height = top + Math.max(...rows) * row + 6;
  const parts = { lines: [], nodes: [] };
  let from = { x: 14, y: top + (height - top) / 2 };
  parts.nodes.push(circle(from.x, from.y, 5, 'own'));
  levels.forEach((level, depth) => {
    const x = 46 + depth * step;
    let y = top + (height - top - rows[depth] * row) / 2 + row / 2;
    let next = from;
    const more = (count) => {
      parts.nodes.push(draw('text', { x: x + 6, y: y + 4, class: 'more' }, `${count} more`));
      y += row;
    };
    parts.nodes.push(draw('text', { x: x + 6, y: 10, class: 'more' }, `code ${depth + 1}`));
    if (level.before) more(level.before);
    for (const { code, items, own } of level.codes) {
      const middle = (from.x + x) / 2;
      parts.lines.push(draw('path', { d: `M${from.x + 5} ${from.y} C${middle} ${from.y} ${middle} ${y} ${x} ${y}`, class: own ? 'own' : '' }));
      parts.nodes.push(draw('rect', { x, y: y - 10, width: 84, height: 20, rx: 6, class: own ? 'own' : '' }),
        draw('text', { x: x + 6, y: y + 4, class: own ? 'own' : '' }, code), draw('text', { x: x + 78, y: y + 4, class: own ? 'own end' : 'end' }, String(items)));
      if (own) next = { x: x + 80, y };
      y += row;
    }
    if (level.after) more(level.after);
    from = next;
  });
  const words = levels.map((level, depth) => {
    const own = level.codes.find((code) => code.own);
    const all = level.codes.length + level.before + level.after;
    return `code ${depth + 1} is ${own.code}, one of ${all}, with ${own.items} ${own.items === 1 ? 'item' : 'items'} below`;
  }).join('; ');
  return draw('svg', { class: 'trie', viewBox: `0 0 ${46 + levels.length * step} ${height}`, role: 'img', 'aria-label': `${codes} in the trie: ${words}` },
    draw('g', { class: 'lines' }, parts.lines), parts.nodes);
}

// ---- Presses and forms --------------------------------------------------------------------------------------------

document.addEventListener('click', (event) => {
  const pressed = event.target.closest('button');
  if (event.target.tagName === 'DIALOG') event.target.close();  // beside the drawer
  if (pressed?.classList.contains('close')) pressed.closest('dialog').close();
  const request = pressed?.dataset.act ? { ...pressed.dataset } : null;
  if (!request) return;
  if (request.act === 'known') $('known').showModal();
  else if (['open', 'why', 'codes'].includes(request.act)) open(request.item, request.run, request.level);
  else {
    if ($('details').open) $('details').close();
    act(request);
    if (request.act === 'add') {
      $('find').value = '';
      $('found').replaceChildren();
      $('find').focus();
    }
  }
});

document.addEventListener('submit', (event) => {
  event.preventDefault();
  if (event.target.dataset.act === 'filter') filter(event.target);
  if (event.target.id !== 'composer') return;
  const text = $('say').value.trim();
  event.target.reset();
  if (text) act({ act: 'say', text });
});

document.addEventListener('change', (event) => {
  const form = event.target.closest('form[data-act="filter"]');
  if (form) filter(form);
});

$('find').addEventListener('input', (event) => find(event.target.value));
$('open-known').addEventListener('click', () => $('known').showModal());

function developer(is) {
  document.body.classList.toggle('is-developer', is);
  $('developer').setAttribute('aria-checked', is);
  sessionStorage.setItem('developer', is ? 'yes' : '');
}
$('developer').addEventListener('click', () => developer(!document.body.classList.contains('is-developer')));

// ---- Beginning ----------------------------------------------------------------------------------------------------

const skeleton = () => make('li', {}, make('div', { class: 'card skeleton' }, make('div', { class: 'picture' }),
  make('div', { class: 'body' }, make('i'), make('i'), make('i'))));
$('cards').append(make('div', { class: 'run' }, make('ol', { class: 'cards', 'aria-label': 'Items are being found' }, [...Array(6)].map(skeleton))));
developer(sessionStorage.getItem('developer') === 'yes');
busy(true);
fetch('api/shop').then((answer) => answer.json()).then((found) => {
  shop = found;
  $('count').textContent = `${shop.items.toLocaleString('en')} items`;
  $('say').maxLength = shop.longest;
  buildFilters();
  act({ act: 'open' });
}).catch(() => trouble('The server does not answer. Is it still running?'));
