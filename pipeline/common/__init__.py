"""What every job uses: progress, devices, processes, pictures."""
