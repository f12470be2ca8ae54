// A click on the heading of a table sorts its rows by that column, as numbers where they begin with one; a second click turns the order.
document.addEventListener("click", (event) => {
  const heading = event.target.closest("table thead th");
  if (!heading) return;
  const column = [...heading.parentNode.children].indexOf(heading);
  const body = heading.closest("table").tBodies[0];
  const turned = heading.dataset.sorted === "up" ? -1 : 1;
  for (const other of heading.parentNode.children) delete other.dataset.sorted;
  heading.dataset.sorted = turned === 1 ? "up" : "down";
  const cell = (row) => row.children[column].textContent.trim();
  const number = (text) => parseFloat(text.replace(/^[^\d.+-]*/, "").replace(/,/g, ""));
  const compare = (a, b) => {
    const [x, y] = [number(cell(a)), number(cell(b))];
    if (isNaN(x) || isNaN(y)) return isNaN(x) === isNaN(y) ? turned * cell(a).localeCompare(cell(b)) : isNaN(x) ? 1 : -1;
    return turned * (x - y);
  };
  body.append(...[...body.rows].sort(compare));
});
