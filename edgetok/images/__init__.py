"""From image files to pixels, alike at export and on the device."""
