"""Makes weights. Nothing at run time imports it."""
