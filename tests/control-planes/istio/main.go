// Command istio-xds runs Istio's control plane on Kubernetes objects and writes what it tells a gateway's proxy.
//
// It is Istio's discovery server with its controllers for Services, EndpointSlices and the Gateway API, on a client of Kubernetes
// that has the objects in memory, as Istio's own tests run it. Nothing else is stood in for: conversion, merging, patches of EnvoyFilters and xDS are Istio's.
//
// Usage: istio-xds INPUT OUTPUT. Both are JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/test"
)

// input says what there is, and which proxy asks.
type input struct {
	// Namespace is the Gateway's, and the proxy's.
	Namespace string `json:"namespace"`
	// Labels are the proxy's.
	Labels map[string]string `json:"labels"`
	// Address is the proxy's, one of the endpoints of the Gateway's Service.
	Address string `json:"address"`
	// Kubernetes has the objects of Kubernetes and the Gateway API, as YAML documents.
	Kubernetes string `json:"kubernetes"`
	// Istio has Istio's own objects.
	Istio string `json:"istio"`
	// Extensions are the names of the filters that the proxy asks for by ECDS.
	Extensions []string `json:"extensions"`
}

// output is what the proxy is told.
type output struct {
	Listeners  []json.RawMessage `json:"listeners"`
	Clusters   []json.RawMessage `json:"clusters"`
	Routes     []json.RawMessage `json:"routes"`
	Endpoints  []json.RawMessage `json:"endpoints"`
	Extensions []json.RawMessage `json:"extensions"`
}

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "istio-xds:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: istio-xds INPUT OUTPUT")
	}
	text, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	var in input
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	var out *output
	var failed error
	if err := test.Wrap(func(t test.Failer) { out, failed = translate(t, in) }); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	text, err = json.Marshal(out)
	if err != nil {
		return err
	}
	return os.WriteFile(args[2], text, 0o600)
}

func translate(t test.Failer, in input) (*output, error) {
	server := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{KubernetesObjectString: in.Kubernetes, ConfigString: in.Istio})
	proxy := server.SetupProxy(&model.Proxy{
		Type:            model.Router,
		ConfigNamespace: in.Namespace,
		Labels:          in.Labels,
		IPAddresses:     []string{in.Address},
		Metadata:        &model.NodeMetadata{Namespace: in.Namespace, Labels: in.Labels, ClusterID: "Kubernetes", IstioVersion: "1.30.0"},
	})
	listeners := server.Listeners(proxy)
	extensions := server.ConfigGen.BuildExtensionConfiguration(proxy, server.PushContext(), in.Extensions, nil)
	out := &output{}
	var err error
	if out.Listeners, err = marshal(listeners); err != nil {
		return nil, err
	}
	if out.Clusters, err = marshal(server.Clusters(proxy)); err != nil {
		return nil, err
	}
	if out.Routes, err = marshal(server.RoutesFromListeners(proxy, listeners)); err != nil {
		return nil, err
	}
	if out.Endpoints, err = marshal(server.Endpoints(proxy)); err != nil {
		return nil, err
	}
	out.Extensions, err = marshal(extensions)
	return out, err
}

func marshal[M proto.Message](messages []M) ([]json.RawMessage, error) {
	all := make([]json.RawMessage, 0, len(messages))
	for _, message := range messages {
		text, err := protojson.Marshal(message)
		if err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, nil
}
