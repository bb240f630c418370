"""A fleet of simulated PiBook and PiBox devices."""
