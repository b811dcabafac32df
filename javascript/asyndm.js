// Chips of the prompt's words under AsynDM's "Object words": live, by mouse or keyboard.
// The page's Python draws them, by the same code as a run; here it is asked and clicks are written.
(function () {
    "use strict";

    const TABS = ["txt2img", "img2img"];
    const asked = {}; // by tab: what the chips were last asked of
    const waiting = {}; // by tab: the end of the wait for an answer
    const watched = {}; // by tab: the place that is watched for answers
    const focused = {}; // by tab: the word of the chip that has the keyboard
    const network = {}; // by tab: the checkpoint and the picture that its network was last asked of

    function root() {
        return typeof gradioApp === "function" ? gradioApp() : document;
    }

    function partsOf(tab) {
        const find = (selector) => root().querySelector(selector);
        return {
            prompt: find(`#${tab}_prompt textarea`),
            field: find(`#${tab}_asyndm_objects textarea, #${tab}_asyndm_objects input`),
            place: find(`#${tab}_asyndm_tokens`),
            ask: find(`#${tab}_asyndm_ask`),
            styles: find(`#${tab}_styles`),
        };
    }

    function chipOf(node) {
        return node instanceof Element ? node.closest(".asyndm-chip[data-word]") : null;
    }

    function answered(tab, place) {
        clearTimeout(waiting[tab]);
        waiting[tab] = 0;
        if (focused[tab] && !chipOf(document.activeElement)) {
            const same = [...place.querySelectorAll(".asyndm-chip")].find((chip) => chip.dataset.word === focused[tab]);
            if (same && (document.activeElement === document.body || !document.activeElement)) same.focus();
        }
        soon();
    }

    function refresh() {
        for (const tab of TABS) {
            const {prompt, field, place, ask, styles} = partsOf(tab);
            if (!prompt || !field || !place || !ask || field.offsetParent === null) continue; // closed
            if (watched[tab] !== place) {
                watched[tab] = place;
                new MutationObserver(() => answered(tab, place)).observe(place, {childList: true, subtree: true});
            }
            const now = `${prompt.value}\n\n${field.value}\n\n${styles ? styles.textContent : ""}`;
            if (waiting[tab] || asked[tab] === now) continue;
            asked[tab] = now;
            waiting[tab] = setTimeout(() => answered(tab, place), 5000);
            ask.click();
        }
    }

    // Whether the settings of transformers are of use: the page's Python looks at what is loaded.
    function askNetwork() {
        const chosen = root().querySelector("#setting_sd_model_checkpoint input, .model_selection input");
        for (const tab of TABS) {
            const ask = root().querySelector(`#${tab}_asyndm_ask_network`);
            const face = root().querySelector(`#${tab}_asyndm_objects`);
            if (!ask || !face || face.offsetParent === null) continue; // closed
            const made = root().querySelector(`#html_info_${tab}`);
            const now = `${chosen ? chosen.value : ""}\n${made ? made.textContent : ""}`;
            if (network[tab] === now) continue;
            network[tab] = now;
            ask.click();
            setTimeout(() => ask.click(), 2000); // the host may hear of the choice after us
        }
    }

    let due = 0;

    function soon() {
        clearTimeout(due);
        due = setTimeout(() => { refresh(); askNetwork(); }, 250);
    }

    function toggled(chip, bar, value) {
        const word = chip.dataset.word;
        if (chip.getAttribute("aria-pressed") !== "true") {
            const before = value.trim();
            return before ? `${before}${/[,;]$/.test(before) ? "" : ","} ${word}` : word;
        }
        if (bar && value === bar.dataset.objects && "next" in chip.dataset) return chip.dataset.next;
        const same = (item) => item.toLowerCase() === word.toLowerCase(); // clicked before an answer came
        return value.split(",").map((item) => item.trim()).filter((item) => item && !same(item)).join(", ");
    }

    document.addEventListener("click", (event) => {
        const chip = chipOf(event.target);
        const tab = chip && TABS.find((name) => chip.closest(`#${name}_asyndm_tokens`));
        if (tab) {
            const {field} = partsOf(tab);
            field.value = toggled(chip, chip.closest(".asyndm-chips"), field.value);
            const pressed = chip.getAttribute("aria-pressed") === "true";
            chip.setAttribute("aria-pressed", String(!pressed));
            focused[tab] = chip.dataset.word;
            field.dispatchEvent(new Event("input", {bubbles: true}));
        }
        const more = TABS.find((name) => event.target.closest(`#${name}_asyndm_more > .label-wrap`));
        if (more) delete network[more];
        soon(); // also an accordion that was opened
    });
    document.addEventListener("focusin", (event) => {
        for (const tab of TABS) {
            const chip = chipOf(event.target);
            if (chip) focused[tab] = chip.dataset.word;
            else focused[tab] = "";
        }
    });
    document.addEventListener("input", soon, true);
    if (typeof onAfterUiUpdate === "function") onAfterUiUpdate(soon); // paste and presets fire no input event
    if (typeof onUiLoaded === "function") onUiLoaded(soon);
})();
