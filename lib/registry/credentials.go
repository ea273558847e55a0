// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
)

// Credential is what a host is to be told. The zero value is nothing.
type Credential struct {
	Username, Password string
	IdentityToken      string // a refresh token for OAuth2, in place of the password
	Token              string // a bearer token that is ready to be sent
}

// credential is what to log in with. The zero value is none.
type credential struct {
	username, password string
	identity           string // a refresh token for OAuth2, in place of the password
	token              string // a bearer token that is ready to be sent
	source             string // where it is from, for people; it holds no secret
}

func (c credential) none() bool {
	return c.username == "" && c.password == "" && c.identity == "" && c.token == ""
}

// keychain finds credentials in one file in the form of docker's config.json, and asks the helpers that the
// file names.
type keychain struct {
	path string
	conf *configfile.ConfigFile
}

// readKeychain reads the file that the options name, or else the first that is there of docker's
// config.json, $REGISTRY_AUTH_FILE and the two places of containers-auth.json(5). It is nil when there is
// none.
func (o Options) readKeychain() (*keychain, error) {
	path, option := o.AuthFile, optionAuth
	if path == "" {
		option = "credentials in"
		if path = userAuthFile(); path == "" {
			return nil, nil
		}
	}
	text := o.auth
	if text == nil {
		var err error
		if text, err = readFile(context.Background(), option, path); err != nil {
			return nil, err
		}
	}
	conf, err := config.LoadFromReader(bytes.NewReader(text))
	if err != nil {
		return nil, badFile(option, path, err)
	}
	return &keychain{path, conf}, nil
}

func userAuthFile() string {
	docker := os.Getenv("DOCKER_CONFIG")
	home, _ := os.UserHomeDir()
	if docker == "" && home != "" {
		docker = filepath.Join(home, ".docker")
	}
	places := []string{os.Getenv("REGISTRY_AUTH_FILE")}
	if docker != "" {
		places = slices.Insert(places, 0, filepath.Join(docker, "config.json"))
	}
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		places = append(places, filepath.Join(run, "containers/auth.json"))
	}
	if conf := os.Getenv("XDG_CONFIG_HOME"); conf != "" {
		places = append(places, filepath.Join(conf, "containers/auth.json"))
	} else if home != "" {
		places = append(places, filepath.Join(home, ".config/containers/auth.json"))
	}
	for _, path := range places {
		if st, err := os.Stat(path); path != "" && err == nil && !st.IsDir() {
			return path
		}
	}
	return ""
}

// find gives the credentials for a repository: those of the most specific entry whose path begins the
// repository's, component by component (containers-auth.json(5)). An entry of another path is never used,
// and neither is one of another host or port. An empty entry counts as none.
func (k *keychain) find(host, repository string) (credential, error) {
	if k == nil {
		return credential{}, nil
	}
	for path := repository; ; path = parentPath(path) {
		c, err := k.entry(host, path)
		if err != nil || !c.none() || path == "" {
			return c, err
		}
	}
}

func parentPath(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '/'))]
}

// entry gives the credentials that are configured for exactly this path of the host; an empty path is the
// whole host.
func (k *keychain) entry(host, path string) (credential, error) {
	for _, key := range slices.Sorted(maps.Keys(k.conf.CredentialHelpers)) {
		if !isKey(key, host, path) {
			continue
		}
		if c, err := k.ask(k.conf.CredentialHelpers[key], key); err != nil || !c.none() {
			return c, err
		}
	}
	keys := slices.Sorted(maps.Keys(k.conf.AuthConfigs))
	keys = slices.DeleteFunc(keys, func(key string) bool { return !isKey(key, host, path) })
	if store := k.conf.CredentialsStore; store != "" {
		// Docker lists in the file what the store knows; the host is asked for in any case.
		ask := keys
		if path == "" {
			ask = append(slices.Clone(keys), storeKey(host))
		}
		for _, key := range slices.Compact(ask) {
			if c, err := k.ask(store, key); err != nil || !c.none() {
				return c, err
			}
		}
	}
	for _, key := range keys {
		if c := credentialOf(k.conf.AuthConfigs[key]); !c.none() {
			c.source = fmt.Sprintf("%s, entry %q", k.path, oneLine(key))
			return c, nil
		}
	}
	return credential{}, nil
}

// ask runs the credential helper docker-credential-NAME.
func (k *keychain) ask(helper, key string) (credential, error) {
	if helper == "" {
		return credential{}, nil
	}
	if strings.ContainsRune(helper, '/') {
		return credential{}, fmt.Errorf("credential helper %q in %s: it is no name", oneLine(helper), k.path)
	}
	auth, err := credentials.NewNativeStore(k.conf, helper).Get(key)
	if err != nil {
		text := err.Error()
		if said, _, ok := strings.Cut(text, ", out: "); ok && strings.Contains(text, "Secret") {
			text = said // it failed after it had printed the password
		}
		return credential{}, fmt.Errorf("credential helper docker-credential-%s: %w", oneLine(helper), errors.New(oneLine(text)))
	}
	c := credentialOf(auth)
	c.source = fmt.Sprintf("docker-credential-%s, asked for %q", oneLine(helper), oneLine(key))
	return c, nil
}

func credentialOf(a types.AuthConfig) credential {
	c := credential{username: a.Username, password: a.Password, identity: a.IdentityToken, token: a.RegistryToken}
	if c.identity != "" {
		c.password = ""
	}
	return c
}

// hubKey is the name of Docker Hub in docker's own configuration.
const hubKey = "https://index.docker.io/v1/"

// storeKey is what a credential store calls a host.
func storeKey(host string) string {
	if canonicalHost(host) == hub {
		return hubKey
	}
	return host
}

// isKey tells whether a key of the configuration stands for exactly this path of the host. Keys of whole
// hosts may be written as addresses, as docker has them: https://HOST/v1/.
func isKey(key, host, path string) bool {
	rest, address := strings.CutPrefix(key, "https://")
	if !address {
		rest, address = strings.CutPrefix(key, "http://")
	}
	h, p, _ := strings.Cut(rest, "/")
	p = strings.Trim(p, "/")
	if address && (p == "v1" || p == "v2") {
		p = ""
	}
	return canonicalHost(h) == canonicalHost(host) && p == path
}

// The names of Docker Hub.
const (
	hub         = "docker.io"
	hubLegacy   = "index.docker.io"
	hubRegistry = "registry-1.docker.io"
)

// canonicalHost makes names of one registry equal.
func canonicalHost(host string) string {
	switch host = strings.ToLower(host); host {
	case hubLegacy, hubRegistry:
		return hub
	}
	return host
}
