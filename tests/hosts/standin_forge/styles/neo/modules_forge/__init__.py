STYLE = "neo"
