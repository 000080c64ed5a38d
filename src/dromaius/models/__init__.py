"""Model families: `FAMILIES` maps a checkpoint's model type to the module that implements it."""

FAMILIES = {"emu3": "dromaius.models.emu3"}
