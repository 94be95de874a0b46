(function () {
  'use strict';
  const rows = Array.from(document.querySelectorAll('tbody tr'));
  const inputs = ['text', 'least', 'status', 'verdict']
    .map(function (name) { return document.getElementById(name); });
  const [text, least, status, verdict] = inputs;
  const told = document.getElementById('told');
  function show() {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const limit = least.value === '' ? -1 : Number(least.value);
    let count = 0;
    for (const row of rows) {
      const data = row.dataset;
      const risk = data.risk === '' ? -1 : Number(data.risk);
      const content = row.textContent.toLowerCase();
      const fits = risk >= limit
        && (!status.value || data.status === status.value)
        && (!verdict || !verdict.value || data.verdict === verdict.value)
        && words.every(function (word) { return content.includes(word); });
      row.hidden = !fits;
      count += fits;
    }
    told.textContent = count + ' of ' + rows.length + ' shown';
  }
  for (const input of inputs) {
    if (input) input.addEventListener('input', show);
  }
  document.getElementById('all').addEventListener('click', function () {
    for (const input of inputs) if (input) input.value = '';
    show();
  });
  show();
})();
