"""`python -m saliency_exporter` is `saliency-exporter`."""

from saliency_exporter.cli import main

if __name__ == "__main__":
    main()
