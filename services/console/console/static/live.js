// Lives with the page: fetches it again every few seconds and puts in what changed. Without this script the page shows
// the same when it is loaded again.

const live = document.getElementById('live');
let before = live.innerHTML;

function isInUse(element) {
  return element.contains(document.activeElement) || !document.getSelection().isCollapsed;
}

async function look() {
  if (document.visibilityState === 'visible' && navigator.onLine !== false) {
    try {
      const response = await fetch(location.pathname, {cache: 'no-store'});
      if (response.ok) replace(new DOMParser().parseFromString(await response.text(), 'text/html'));
    } catch {
      // No network, or the service is being replaced: what is shown stays, and is looked at again.
    }
  }
  setTimeout(look, 1000 * Number(live.dataset.live));
}

function replace(page) {
  const fresh = page.getElementById('live');
  if (!fresh) return;
  live.dataset.live = fresh.dataset.live;
  if (fresh.innerHTML === before) return;
  const open = new Set([...live.querySelectorAll('details[open] > summary')].map((each) => each.textContent));
  // A person who is on a link with the keyboard stays there: the change is put in at the next look.
  if (isInUse(live)) return;
  before = fresh.innerHTML;
  live.replaceChildren(...fresh.childNodes);
  for (const summary of live.querySelectorAll('details > summary')) {
    if (open.has(summary.textContent)) summary.parentElement.open = true;
  }
}

setTimeout(look, 1000 * Number(live.dataset.live));
