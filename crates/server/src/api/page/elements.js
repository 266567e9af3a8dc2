// Making and changing elements. Text is only ever set as text: names and messages come from strangers.

export const by = (id) => document.getElementById(id);

/** An element with properties, and children that are elements or texts. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Sets a text where it is another one, so that a selection and a screen reader are left in peace. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows a text, or hides its element when there is none. */
export function sayOrHide(element, text) {
  element.hidden = !text;
  say(element, text ?? "");
}

/**
 * Makes the children of `parent` those of `items`, one for each key: what is there already is updated in its place, so
 * that it keeps its focus and what is open in it.
 */
export function keep(parent, items, key, create, update) {
  const wanted = new Map(items.map((item) => [key(item), item]));
  const there = new Map();
  for (const child of [...parent.children]) {
    if (wanted.has(child.dataset.key)) there.set(child.dataset.key, child);
    else child.remove();
  }
  let before = parent.firstElementChild;
  for (const [name, item] of wanted) {
    let child = there.get(name);
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    update(child, item);
    if (child === before) before = child.nextElementSibling;
    else parent.insertBefore(child, before);
  }
}

/** A list of facts, each a name and a text; those without a text are left out. */
export function facts(list, pairs) {
  const shown = pairs.filter(([, text]) => text);
  keep(
    list,
    shown,
    ([name]) => name,
    ([name]) => make("div", {}, make("dt", {}, name), make("dd")),
    (row, [, text]) => say(row.lastElementChild, text),
  );
}

/** Asks before something that cannot be taken back. */
export function ask(title, text, yes) {
  const dialog = by("ask");
  say(by("ask-title"), title);
  say(by("ask-text"), text);
  say(by("ask-yes"), yes);
  dialog.showModal();
  by("ask-no").focus();
  return new Promise((answer) => {
    const end = (said) => {
      if (dialog.open) dialog.close();
      answer(said);
    };
    by("ask-yes").onclick = () => end(true);
    by("ask-no").onclick = () => end(false);
    // The end of the question before may be told when this one is open already: it ends nothing.
    dialog.onclose = () => {
      if (!dialog.open) end(false);
    };
  });
}
