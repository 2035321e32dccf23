"""Weight files: fetch, check, convert, describe."""
