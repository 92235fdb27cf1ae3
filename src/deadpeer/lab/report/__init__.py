"""Every method and every attack in one page: the plan of runs, what they gave, and how it is shown."""
