// Render every formula of the page; the LaTeX stays readable where scripts are off.
document.addEventListener("DOMContentLoaded", () => {
  for (const el of document.querySelectorAll(".katex-source")) {
    katex.render(el.textContent, el, { displayMode: el.tagName === "DIV", throwOnError: false });
  }
});
