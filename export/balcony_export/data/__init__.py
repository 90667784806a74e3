"""The text that exits are trained and measured on: files, data sets, or samples of the base itself."""
