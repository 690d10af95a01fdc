"""Files to rows: which files a source names, how they are unpacked, what is taken."""
