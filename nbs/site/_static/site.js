// Copy buttons on code, and scroll boxes that a keyboard can reach.
document.addEventListener("DOMContentLoaded", () => {
  const copy = async text => {
    try { await navigator.clipboard.writeText(text); }
    catch {
      const box = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(box);
      box.select();
      document.execCommand("copy");
      box.remove();
    }
  };
  for (const block of document.querySelectorAll("div.highlight")) {
    if (block.closest(".cell_output")) continue;
    const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: "Copy" });
    const pre = block.querySelector("pre");
    button.addEventListener("click", async () => {
      await copy(pre.innerText.trimEnd());
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.append(button);
  }
  const boxes = ".cell_output, .cell_output pre, .highlight pre, .pst-scrollable-table-container, div.output, .katex-display";
  const reach = () => {
    for (const box of document.querySelectorAll(boxes)) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  reach();
  addEventListener("resize", reach);
});
