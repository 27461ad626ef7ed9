package agent

import (
	"crypto/tls"

	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
)

// NewDataCertificate makes the key and certificate of an agent's data connections, for one run of the agent. Certificate[0]
// is what Identity.Certificate tells.
func NewDataCertificate() (tls.Certificate, error) { return datalink.NewCertificate() }

// DataTLS is the configuration of the data connections with the agent whose Identity.Certificate is peer: for the end that
// dials as for the one that listens, and for nobody else.
func DataTLS(own tls.Certificate, peer []byte) (*tls.Config, error) {
	return datalink.PinTLS(own, peer)
}
