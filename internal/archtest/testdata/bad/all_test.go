package bad

var changeable int

func Helper(a, b, c, d, e, f int) {}
