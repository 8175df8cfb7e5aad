"""``python -m kanary.cli``."""

from kanary.cli import main

main()
