"""`align submit`: the same run somewhere else. One module a target."""
