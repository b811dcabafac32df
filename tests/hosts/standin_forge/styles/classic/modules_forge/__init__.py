STYLE = "classic"
