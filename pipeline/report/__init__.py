"""Static HTML reports: self-contained pages that need no network."""
