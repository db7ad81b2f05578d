"""With what commands end beside 0 and the `exit_code` of an error; `aladin --help` lists them all."""

DAMAGED = 1
SKIPPED_SOME = 3  # files that could not be read, or captions of unknown images
NOTHING_FOUND = 4
