"""Run by the WebUI before it starts. AsynDM adds no package: it uses what every WebUI has."""

import importlib.util

missing = [name for name in ("torch", "numpy", "einops") if not importlib.util.find_spec(name)]
if missing:
    print(f"AsynDM: this WebUI lacks {', '.join(missing)}; AsynDM will not load.")
