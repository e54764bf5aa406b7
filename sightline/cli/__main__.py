"""``python -m sightline.cli``, where the script is not on the path."""

import sys

from sightline.cli.main import main

sys.exit(main())
