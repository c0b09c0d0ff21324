"""What a challenge track is: its data, its rules, its run, its submission."""
