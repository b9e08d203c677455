module hawk/interop/agent

go 1.19
