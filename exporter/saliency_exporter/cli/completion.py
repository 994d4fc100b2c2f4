"""`saliency-exporter completion`."""

from __future__ import annotations

from saliency_client.cli.completion import completion_command

completion = completion_command("saliency-exporter")
