"""What a challenge track is: its data, its rules, its run, its submission."""

import models  # noqa: F401  (Ctrl-C while a command imports its parts ends in one sentence)
