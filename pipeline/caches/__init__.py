"""Jobs on finished stores: inspect, verify, compare, copy, repair, delete."""
