"""The job behind `combo doctor`: look at a machine, data sets, stores and runs, and say what to do."""
