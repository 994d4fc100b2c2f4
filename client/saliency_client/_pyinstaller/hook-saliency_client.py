"""What a frozen program needs beside the modules: the stylesheet and the scripts of pages."""

from __future__ import annotations

from pathlib import Path

datas = [(str(Path(__file__).parents[1] / "web" / "static"), "saliency_client/web/static")]
