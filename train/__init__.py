"""Makes weights. Nothing at run time imports it."""

import models  # noqa: F401  (Ctrl-C while a command imports its parts ends in one sentence)
