module hawk/peers/goroutine

go 1.19
