"use strict";
// Shows the texts of the charts' marks under a mouse or a finger. Texts are only inserted as text.
(() => {
  const tip = document.getElementById("tip");
  const [told, place] = tip.children;
  const map = document.querySelector("svg.dots");
  const dots = map ? [...map.querySelectorAll("circle")] : [];
  const legend = [...document.querySelectorAll(".legend button")];
  let lit = null;

  function hide() {
    tip.hidden = true;
    if (lit) lit.classList.remove("lit");
    lit = null;
  }

  function show(mark, x, y) {
    if (lit !== mark) {
      hide();
      lit = mark;
      lit.classList.add("lit");
      told.textContent = mark.dataset.told || "";
      place.textContent = [nameOf(mark), mark.dataset.place].filter(Boolean).join(" · ");
      told.hidden = !told.textContent;
      place.hidden = !place.textContent;
      tip.hidden = false;
    }
    const box = tip.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(x + 14, width - box.width - 8));
    const top = y + box.height + 24 > innerHeight ? y - box.height - 14 : y + 16;
    tip.style.left = `${left}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  }

  function nameOf(mark) {
    const colour = mark.parentNode.getAttribute("class");
    const button = legend.find((each) => each.dataset.colour === colour);
    return button ? button.querySelector(".value").textContent : "";
  }

  // There are many small dots: takes the nearest one, for a finger from further away.
  function nearest(event) {
    const box = map.getBoundingClientRect();
    const scale = map.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    const y = (event.clientY - box.top) * scale;
    let least = ((event.pointerType === "touch" ? 30 : 14) * scale) ** 2;
    let found = null;
    for (const dot of dots) {
      const distance = (dot.cx.baseVal.value - x) ** 2 + (dot.cy.baseVal.value - y) ** 2;
      if (distance < least && !dot.parentNode.classList.contains("dim")) {
        least = distance;
        found = dot;
      }
    }
    return found;
  }

  function point(event) {
    const inMap = map && map.contains(event.target);
    const mark = inMap ? nearest(event) : event.target.closest && event.target.closest("[data-told]");
    if (mark) show(mark, event.clientX, event.clientY);
    else hide();
  }

  for (const button of legend) {
    button.addEventListener("click", () => {
      const alone = button.getAttribute("aria-pressed") !== "true";
      for (const each of legend) each.setAttribute("aria-pressed", String(alone && each === button));
      for (const group of map.querySelectorAll("g"))
        group.classList.toggle("dim", alone && !group.classList.contains(button.dataset.colour));
      hide();
    });
  }
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);
  addEventListener("scroll", hide, { passive: true });
})();
