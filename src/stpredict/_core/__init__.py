"""Settings, slot names, checks and files: what every other part of the package stands on."""
