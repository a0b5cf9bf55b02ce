"""The soak of the human loop: the loop itself, the crowd that answers, and what may not grow."""
