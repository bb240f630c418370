"""What PiSync asks of its stores. Those in memory and the real ones pass one contract suite."""
