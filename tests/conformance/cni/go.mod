module crisp/tests/conformance/cni

go 1.26.6

tool github.com/containernetworking/cni/plugins/test/noop

require (
	github.com/containernetworking/cni v1.3.1 // indirect
	github.com/vishvananda/netns v0.0.4 // indirect
	golang.org/x/sys v0.23.0 // indirect
)
