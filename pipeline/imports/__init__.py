"""Jobs that bring clips, masks and Maskiges from elsewhere into a cache root."""
