"""Predicts images from the shell.

python -m service.client cell.png                                        # a JSON line on stdout
python -m service.client images 'more/**/*.tif' --output results.jsonl --overlay drawn
python -m service.client images --format coco --output results.json --coco-images images.json
python -m service.client --help                                          # every option, the formats, the exit codes
"""

import sys

from service.client.command import main

if __name__ == "__main__":
    sys.exit(main())
