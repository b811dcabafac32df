// Chips of the prompt's words under AsynDM's "Object words": live, by mouse or keyboard.
// Text only ever enters the page as text (textContent), so a prompt full of HTML stays a prompt.
(function () {
    "use strict";

    const SKIP = new Set(("a above across an and are around as at behind below beside between by for from in inside into is it its near next of off " +
        "on or out over so that the their this through to two three four under up very with without break best quality " +
        "masterpiece detailed highly photo picture image").split(" "));
    const MOST = 60; // chips; a longer prompt is still searched by AsynDM itself

    function root() {
        return typeof gradioApp === "function" ? gradioApp() : document;
    }

    function words(prompt) {
        const plain = prompt
            .replace(/<\w+:[^<>]*>/g, " ") // <lora:name:1>
            .replace(/\\[()\[\]]/g, " ")
            .replace(/:\s*[-+]?\d*\.?\d+\s*(?=[)\]]|AND\b|$)/g, " "); // weights and schedules
        const seen = new Map();
        for (const word of plain.match(/[\p{L}\p{M}][\p{L}\p{M}\p{N}'’-]*/gu) || []) {
            const key = word.toLowerCase();
            if (word !== "AND" && word.length > 1 && !SKIP.has(key) && !seen.has(key)) seen.set(key, word);
        }
        return [...seen.values()].slice(0, MOST);
    }

    function items(expression) {
        return expression.split(/[,;\n]/).map((item) => item.trim()).filter(Boolean);
    }

    function nameOf(item) {
        return item.replace(/:[^:]*$/, "").trim().toLowerCase();
    }

    function toggled(expression, word) {
        const list = items(expression);
        const kept = list.filter((item) => nameOf(item) !== word.toLowerCase());
        if (kept.length === list.length) kept.push(word);
        return kept.join(", ");
    }

    function write(field, value) {
        field.value = value;
        field.dispatchEvent(new Event("input", {bubbles: true}));
    }

    function chip(word, field) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "asyndm-chip";
        button.textContent = word;
        button.addEventListener("click", () => {
            write(field, toggled(field.value, word));
            button.focus();
        });
        return button;
    }

    function draw(place, prompt, field) {
        let bar = place.querySelector(".asyndm-chips");
        if (!bar) {
            bar = document.createElement("div");
            bar.className = "asyndm-chips";
            bar.setAttribute("role", "group");
            bar.setAttribute("aria-label", "Words of the prompt: pick the objects");
            place.prepend(bar);
        }
        const list = words(prompt.value);
        if (bar.dataset.words !== list.join(" ")) {
            bar.dataset.words = list.join(" ");
            bar.replaceChildren(...list.map((word) => chip(word, field)));
        }
        const chosen = new Set(items(field.value).map(nameOf));
        for (const button of bar.children) {
            button.setAttribute("aria-pressed", String(chosen.has(button.textContent.toLowerCase())));
        }
        bar.classList.toggle("asyndm-auto", chosen.size === 0);
    }

    const before = {};

    function refresh() {
        for (const tab of ["txt2img", "img2img"]) {
            const prompt = root().querySelector(`#${tab}_prompt textarea`);
            const field = root().querySelector(`#${tab}_asyndm_objects textarea, #${tab}_asyndm_objects input`);
            const place = root().querySelector(`#${tab}_asyndm_tokens`);
            if (!prompt || !field || !place) continue;
            const now = `${prompt.value}\n\n${field.value}`;
            if (before[tab] === now && place.querySelector(".asyndm-chips")) continue;
            before[tab] = now;
            draw(place, prompt, field);
        }
    }

    let due = 0;

    function soon() {
        if (due) return;
        due = setTimeout(() => {
            due = 0;
            refresh();
        }, 120);
    }

    document.addEventListener("input", soon, true);
    if (typeof onAfterUiUpdate === "function") onAfterUiUpdate(soon); // paste and presets fire no input event
    if (typeof onUiLoaded === "function") onUiLoaded(soon);
})();
