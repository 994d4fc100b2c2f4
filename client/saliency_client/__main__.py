"""`python -m saliency_client`."""

from saliency_client.cli import main

if __name__ == "__main__":
    main(prog_name="saliency-client")
