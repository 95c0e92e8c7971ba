"""The report page: what a run or an exported network is, gives and costs, in one file of HTML that fetches nothing."""
