"""The fleet in memory: each device's facts as columns, fed by the projection and the directory."""
